"""The real wires of a Linux machine: the only place below the gateway that knows the operating system."""
