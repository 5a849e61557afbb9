"""Being found on the local network, finding gateways, and the bridge that an assistant's desktop app starts."""
