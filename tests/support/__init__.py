"""What tests share. `pack` comes first: it puts the host, the pack and `tools` where imports find them."""
