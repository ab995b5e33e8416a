"""Whether an archive is whole and true: read, and never written."""
