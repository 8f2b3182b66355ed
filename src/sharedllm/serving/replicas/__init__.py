"""The server as a Ray Serve application: one process that clients reach, and replicas that hold the model.

front      what clients reach: errors, key, limits and page are those of the server; questions go to a replica
asking     a request that is asked again, if the replica that had it dies
routing    the memory that a request names, and what may be asked twice
plan       what a replica loads; sharing: what it sees of the others
played     the server's own application, played inside a replica
replica    the actor that Ray Serve starts
cluster    the application on a Ray cluster, and calls of its replicas
"""
