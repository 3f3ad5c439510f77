"""One verb of the command line a file; the module is imported only when its verb is called or its help is asked."""
