"""Writers: a network in forms that other libraries read."""
