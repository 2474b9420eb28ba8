//! `countersign-agent`.

use core::time::Duration;
use std::process::ExitCode;

use clap::Parser as _;
use countersign_agent::config::{Cli, Command};
use countersign_agent::enroll::{Enrolled, Order, enroll};
use countersign_agent::error::{AgentError, EXIT_LOCAL, EXIT_OK};
use countersign_agent::{guard, identity, run};
use tracing_subscriber::EnvFilter;

/// How long threads may take to end. Those that wait for the network end at once; a TPM is done with most commands.
const SHUTDOWN_MAX: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EXIT_LOCAL } else { EXIT_OK });
        }
    };
    // The guards come first: they need neither runtime nor log, and must be quick.
    match cli.command {
        Command::ExecGuard(args) => guard_failed(&guard::exec(args.parent, args.cgroup.as_deref(), &args.command)),
        Command::GroupSentinel(args) => match guard::sentinel(args.parent, args.group, args.cgroup.as_deref()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => guard_failed(&error),
        },
        command @ (Command::Identity(_) | Command::Enroll(_) | Command::Run(_)) => serve(command),
    }
}

fn guard_failed(error: &guard::GuardError) -> ExitCode {
    eprintln!("countersign-agent: {error}");
    ExitCode::from(guard::EXIT_GUARD)
}

fn serve(command: Command) -> ExitCode {
    // The TPM library logs each refused command as an error; ours say it with its context.
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,tss_esapi=off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("countersign-agent: {error}");
            return ExitCode::from(EXIT_LOCAL);
        }
    };
    // On the main thread, which lives as long as the process: see Workload::start.
    let result = runtime.block_on(execute(command));
    // Threads that still run while the C libraries clean up after main would run into freed memory. A TPM that does not
    // answer must not keep the agent from ending, though.
    runtime.shutdown_timeout(SHUTDOWN_MAX);
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("countersign-agent: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

async fn execute(command: Command) -> Result<u8, AgentError> {
    match command {
        Command::Identity(args) => println!("{}", identity::identity(&args).await?),
        Command::Enroll(args) => {
            let order = Order {
                broker: args.broker,
                broker_ca: args.broker_ca,
                host: args.host,
                state_directory: args.state_dir,
                tcti: args.tcti,
                by: args.by.endorser(),
                intermediates: args.intermediates,
                ak: args.ak,
            };
            match enroll(&order).await? {
                Enrolled::New(enrollment) => println!("enrolled as {} with {}", enrollment.host, enrollment.broker),
                Enrolled::Already(enrollment) => {
                    println!("already enrolled as {} with {}; nothing to do", enrollment.host, enrollment.broker);
                }
            }
        }
        Command::Run(args) => return run::run(*args).await,
        // Handled before there was a runtime.
        Command::ExecGuard(_) | Command::GroupSentinel(_) => return Ok(EXIT_LOCAL),
    }
    Ok(EXIT_OK)
}
