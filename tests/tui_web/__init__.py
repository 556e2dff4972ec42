"""The dashboard in a browser, in a real one."""
