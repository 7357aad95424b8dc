"""One module for each verb, from a request to its result; what ``import mopt`` offers."""
