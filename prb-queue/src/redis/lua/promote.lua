-- Puts in line what is due. Answers the ms to the next timer, -1 where there is none.
return ms_to(promote())
