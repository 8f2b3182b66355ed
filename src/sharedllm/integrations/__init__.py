"""Memories in other libraries: a pipeline of transformers, retrievers of LangChain and LlamaIndex.

Each module needs its library, so none is imported here.
"""
