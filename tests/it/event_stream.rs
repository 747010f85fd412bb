//! What outsiders are promised of the events, and of evidence: described, as described, and no way in.

mod document;
mod live;
mod schemas;

fn proves(criterion: &str) {
    println!("@spec event-stream\n@ac {criterion}");
}
