//! Rules of the engine that a random test would rarely meet, one by one.

mod answers;
mod build;
mod coming;
mod deciding;
mod deleting;
mod echo;
mod excluding;
mod held_open;
mod looking;
mod meeting;
mod news;
mod observing;
mod ordering;
mod power;
mod recovering;
mod reusing;
mod script;
mod sending;
mod sharing;
