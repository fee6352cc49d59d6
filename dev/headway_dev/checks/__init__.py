"""What `headway doctor` looks at, one module for each thing."""
