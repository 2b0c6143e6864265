"""Working jobs: the claim loop, one attempt, and what keeps an attempt the owner of its job."""
