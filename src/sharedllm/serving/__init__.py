"""An OpenAI-compatible server over one model and memories on disk.

app         routes and their errors     (asyncio)
completing  a request followed to its end; changing: changes of memories; uploads: files to text
site, page  the page at /; passages: the text of a document for it
requests, messages, responses  the requests that a client may send, and the Responses API
replies     the responses: whole, or piece by piece
service     the served model and memories, and their names
worker      the one thread that owns the model, and its queue of requests
prompting   the prompt of a request; tools: calls of tools in the form of the model's template     (the worker's thread)
names       names of documents and memories that clients give
answering   selection from a memory, and generated text; choice: one answer, as it is written
steering    penalties, bias and log probabilities; grammar: answers that keep to a JSON schema
memories    the open memories, and changes of them; opened: one of them
identity    what an answer is told by, so that it can be asked for twice
replicas    the same server as a Ray Serve application
explaining  the data of `sharedllm explain` for the last answers
"""
