"""Private PostgreSQL and RabbitMQ, `headway dev`, `headway demo` and `headway doctor`."""
