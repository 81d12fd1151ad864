"""What happens around the network, as one file without dependencies; hexpath-deploy itself runs this code."""
