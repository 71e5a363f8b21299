"""Every compiled loop of the package; each has a slow numpy twin in the tests."""
