"""Stand-ins for libraries that a machine lacks; the jobs of `parity.gpu` find them."""
