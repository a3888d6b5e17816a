"""VPN connections: what of them hosts are told, and the keys that hosts ask for."""
