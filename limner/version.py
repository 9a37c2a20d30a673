"""The version, in one place: read by the build, the model card and every protocol line."""

__version__ = "0.1.0"
