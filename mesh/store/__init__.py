"""Where places are kept: a contract and its implementations, which know places, geometry and MongoDB, nothing else."""
