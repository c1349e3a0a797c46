//! What a hostile peer tries, one test for each trick: refused with its code, and nothing has changed.

mod bye;
