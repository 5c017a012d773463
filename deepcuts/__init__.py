"""The one name that a wheel installs: links to the folders here, whole packages there."""
