"""What an archive needs beside the drains: retention, exports, erasure."""
