//! `docker-compose.yml` proved without a container engine.
//!
//! What an engine would do (order, mounts, users, rights, addresses, health) is done here with the kernel's namespaces, so
//! that the very files run: commands, settings, one-shot jobs, NATS configuration, health checks. Not proved are the
//! build of the image and the entry point of the PostgreSQL image, which `compose/postgres.sh` stands in for.

mod engine;
mod file;
mod machine;
mod story;
mod text;

// Some twenty seconds, most of them NATS electing new leaders.
#[tokio::test]
async fn the_scaled_out_form_runs_and_survives_the_loss_of_one_of_each() {
    if let Some(dir) = machine::inside() {
        return story::run(&dir).await;
    }
    if let Some(obstacle) = machine::obstacle() {
        println!("skipped: the files cannot be run unchanged here: {obstacle}");
        return;
    }
    machine::run_inside("compose::the_scaled_out_form_runs_and_survives_the_loss_of_one_of_each").await;
}
