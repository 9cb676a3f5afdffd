"""The stages of ``dvc.yaml``, one module each; only the command line and the flows import them."""
