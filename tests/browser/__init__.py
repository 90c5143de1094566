"""A package, so that its fixtures end with it: Playwright leaves an event loop running."""
