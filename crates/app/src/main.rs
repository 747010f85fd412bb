//! The `openwatch` program: reads the command line, hands each command to its file, and ends in a documented code.

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use openwatch_app::cli::{AlertsArgs, Cli, Command, DriftArgs};
use openwatch_app::exit::{Failure, USAGE};
use openwatch_app::run::Stage;
use openwatch_app::{client, private, run, tools};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Before any thread exists: it may have to give up privileges.
    if let Some(code) = private::hidden_entry() {
        return code;
    }
    run::no_core_dumps();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let asked = !error.use_stderr();
            // Nobody left to tell when printing fails.
            let _ = error.print();
            return if asked { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
        }
    };
    if let Err(failure) = start_logging(&cli) {
        return failure.report();
    }
    // One TLS provider for NATS, PostgreSQL and HTTP; an error only says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::from(error).report(),
    };
    let ended = runtime.block_on(dispatch(cli.command));
    // A blocking read, of the terminal say, must not keep us.
    runtime.shutdown_background();
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(failure) => failure.report(),
    }
}

fn start_logging(cli: &Cli) -> Result<(), Failure> {
    let filter = EnvFilter::try_new(&cli.log).map_err(|e| Failure::usage(format!("--log: {e}")))?;
    // russh writes key material at its lowest levels, and async-nats every event that our own log tells already.
    let filter =
        ["russh=warn", "russh_keys=warn", "async_nats=warn"].into_iter().fold(filter, |filter, directive| {
            directive.parse().map_or(EnvFilter::new("info"), |directive| filter.add_directive(directive))
        });
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    if cli.log_json {
        subscriber.json().init()
    } else {
        subscriber.init()
    }
    Ok(())
}

async fn dispatch(command: Command) -> Result<u8, Failure> {
    let done = |result: Result<(), Failure>| result.map(|()| 0);
    match command {
        Command::Up(args) => run::up::run(args).await,
        Command::Scheduler(args) => run::stage(Stage::Scheduler, args.into()).await,
        Command::Vault(args) => run::stage(Stage::Vault, args.into()).await,
        Command::Executor(args) => run::stage(Stage::Executor, args.into()).await,
        Command::Writer(args) => run::stage(Stage::Writer, args.into()).await,
        Command::Liveness(args) => run::stage(Stage::Liveness, args.into()).await,
        Command::Api(args) => run::stage(Stage::Api, args.into()).await,
        Command::Drift(DriftArgs { stage, .. }) if stage.is_asked_for() => {
            run::stage(Stage::Drift, stage.into()).await
        }
        Command::Drift(DriftArgs { list, .. }) => done(client::look::drift(list).await),
        Command::Alerts(AlertsArgs { command: Some(action), .. }) => done(client::look::act(action).await),
        Command::Alerts(AlertsArgs { stage, .. }) if stage.is_asked_for() => {
            run::stage(Stage::Alerts, stage.into()).await
        }
        Command::Alerts(args) => done(client::look::alerts(args).await),
        Command::Migrate(args) => done(tools::prepare::migrate(args).await),
        Command::Topology(command) => done(tools::prepare::topology(command).await),
        Command::Keys(command) => done(tools::keys::run(command).await),
        Command::Config(command) => done(tools::prepare::config(command)),
        Command::Doctor(args) => done(tools::prepare::doctor(args).await),
        Command::Host(command) => done(client::hosts::host(command).await),
        Command::Credential(command) => done(client::credentials::credential(command).await),
        Command::Channel(command) => done(client::channels::channel(command).await),
        Command::Scan(args) => client::scan::run(args).await,
        Command::Check(args) => tools::check::run(args).await,
        Command::Rules(command) => tools::rules::run(command).await,
        Command::Policy(command) => done(tools::policy::run(command).await),
        Command::Status(args) => done(client::look::status(args).await),
        Command::Scans(args) => match args.scan {
            Some(id) => done(client::scan::show_scan(&args.list.client, id).await),
            None => done(client::look::scans(args.list).await),
        },
        Command::Transactions(args) => done(client::look::transactions(args).await),
        Command::Audit(args) => done(client::audit::run(args).await),
        Command::Events(command) => tools::events::run(command).await,
        Command::DeadLetters(command) => done(tools::prepare::dead_letters(command).await),
    }
}
