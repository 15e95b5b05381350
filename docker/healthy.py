"""Asks the service of this container at HEALTH_URL; one without that variable is a command that ends, and has nobody to answer."""

import os
from urllib.request import ProxyHandler, build_opener

if url := os.environ.get("HEALTH_URL"):
    # No proxy: the service is in this container. An answer of 400 and above raises.
    build_opener(ProxyHandler({})).open(url, timeout=5).close()
