"""Corpora: documents that outgrow one machine. Many workers read them, and their memories lie in an object store.

`run.read_corpus` reads one, `opening` opens it to be asked. Layout (all objects but `corpus.json` never change):

    corpus.json               settings, and which index is the current one; replaced at the end of a run
    parts/SHARD.json          one small object for each shard that was read, put last: with it the shard is committed
    shards/SHARD-SUM.blocks   the memory files of its documents (`memory.file`), one after the other
    shards/SHARD-SUM.index    the words of its documents and a summary of their scoring keys
    index/SUM.index           the same of all shards, and the names of the documents

A shard's name says which documents it holds, a SUM what is in the object. Reading is deterministic, so two workers that
read one shard put the same objects, and nothing is there twice.
"""
