"""Files in and out; each format has a module of its own. gemmi reads and writes CIF."""
