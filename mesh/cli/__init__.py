"""The programs: composition roots, where the layers meet."""
