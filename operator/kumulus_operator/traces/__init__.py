"""Network traces: the operator leads a packet from host to host, whose agents say what becomes of it there."""
