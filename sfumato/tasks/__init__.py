"""What a person asks for: one frozen dataclass and one coroutine a task."""
