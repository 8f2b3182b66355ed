"""Questions over a memory: one, or a conversation; where the answers come from."""
