"""ZeroMQ: sockets, the loop that moves messages, a client's connection. The only layer that imports zmq."""
