"""The statistical programs. Each file is one model; read one, copy it, edit it, and pass its path to `--model`."""
