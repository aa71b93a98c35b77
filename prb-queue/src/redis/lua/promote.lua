-- Moves due jobs to the waiting list. Answers the ms until the next timer, -1 if there is none.
return ms_to(promote())
