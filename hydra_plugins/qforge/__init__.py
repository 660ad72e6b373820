"""qforge's plugins. Hydra finds them here, for run.py's folder is on sys.path; hydra_plugins itself belongs to nobody."""
