//! What can be said of the files without running them for long.
