"""What an archive needs beside the drains: views refreshed, calls embedded, retention, exports, erasure."""
