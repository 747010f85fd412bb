-- What: the caretaker may write what a scan's end says of its engine, and whether a newer one had come first.
-- Why:  every way in which a scan ends is one statement, also for a scan that nobody was heard of.
-- Safe: grants only.

grant update (superseded, engine) on scan to openwatch_caretaker;
