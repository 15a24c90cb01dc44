OWNER = "second"
