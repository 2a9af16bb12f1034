"""What a worker does with a request: the services, and the threads that run them."""
