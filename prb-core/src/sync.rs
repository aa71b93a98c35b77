//! What a worker needs next: the pure sync planner and the loop that carries it out.
