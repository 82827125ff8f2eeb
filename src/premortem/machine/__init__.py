"""What can be read of the machine: memory, limits, devices, how a process ended, what its log lines say."""
