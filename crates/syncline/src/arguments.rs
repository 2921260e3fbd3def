//! The command line: a contract, which tests and benchmarks drive.

#![allow(
    rustdoc::broken_intra_doc_links,
    rustdoc::bare_urls,
    reason = "the comments are the help text, in its own notation"
)]

use clap::{Args, Parser, Subcommand, ValueEnum};
use model::Role;
use std::path::PathBuf;

/// Keep a folder in sync between your devices, through your own server
#[derive(Debug, Parser)]
#[command(name = "syncline", version, propagate_version = true, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 done, 1 failed (a retry may help), 2 wrong usage, 7 stopped for safety.\n\
                        To try it out on this machine: syncline demo")]
pub(crate) struct Arguments {
    /// The directory of this device's configuration and database
    ///
    /// Several devices can run on one machine, each with a home of its own. The default is
    /// `$XDG_DATA_HOME/syncline` or `~/.local/share/syncline`.
    #[arg(long, global = true, env = "SYNCLINE_HOME", value_name = "DIR")]
    pub(crate) home: Option<PathBuf>,

    /// Print one JSON object on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Run a server and two devices on this machine, to try it out
    Demo(DemoOptions),
    /// Run a server
    Server(ServerOptions),
    /// Administer a server, also while it runs
    Admin(AdminOptions),
    /// Make this a device of an account, and choose the folder to sync
    ///
    /// A folder with files in it is merged with what the server has; nothing in it is replaced.
    Link(LinkOptions),
    /// End this device's link; the files stay
    Unlink,
    /// Start syncing
    Start(StartOptions),
    /// Stop syncing
    Stop,
    /// Show what syncing is doing
    Status(StatusOptions),
    /// Show what was synced lately
    Activity {
        /// How many entries
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: usize,
    },
    /// Wait until everything is in sync
    ///
    /// Returns when everything known here has reached the server and everything the server has is on
    /// disk.
    Flush {
        /// Give up after this many seconds
        #[arg(long, value_name = "S", value_parser = parse_seconds)]
        timeout: Option<f64>,
    },
    /// Show the state of files: up to date, uploading, downloading, error or unwatched
    Filestatus {
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<PathBuf>,
    },
    /// Explain the state of a file
    Why {
        #[arg(value_name = "PATH")]
        path: PathBuf,
    },
    /// Pause syncing until `resume`
    Pause,
    /// Go on after `pause`
    Resume,
    /// List the devices of the account, or unlink one that was lost
    Devices {
        #[command(subcommand)]
        verb: Option<DevicesVerb>,
    },
    /// List what changed on the server, the newest first
    History {
        /// A shared folder, to see its own history
        #[arg(value_name = "FOLDER")]
        folder: Option<PathBuf>,
        /// How many entries
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: u32,
    },
    /// List the versions of a file, the newest first
    Revs {
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// How many versions
        #[arg(long, default_value_t = 50, value_name = "N")]
        limit: u32,
    },
    /// Bring back a deleted file or folder, or a version of a file
    Restore {
        #[arg(value_name = "PATH")]
        path: PathBuf,
        /// The version to bring back, as `revs` lists it; without it, what was deleted last
        #[arg(long, value_name = "N")]
        rev: Option<u64>,
    },
    /// Choose what stays off this device
    #[command(subcommand)]
    Exclude(ExcludeVerb),
    /// Limit the bandwidth: `off`, or bytes per second such as 500K or 2M
    BandwidthLimit {
        #[arg(value_name = "UP")]
        up: String,
        #[arg(value_name = "DOWN")]
        down: String,
    },
    /// Read all local files again; also the way out of a damaged client database
    ///
    /// A damaged database is set aside and a new one built from your files and the server. Nothing is
    /// deleted.
    RebuildIndex {
        /// Set a sound database aside too, as after the folder was copied to another disk
        ///
        /// Syncing must be stopped. Of files that differ both versions stay, and what was deleted on one side
        /// and not yet on the other may come back.
        #[arg(long)]
        anew: bool,
    },
    /// Show and change settings
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Decide on a deletion of many files that is held
    #[command(subcommand)]
    Deletions(DeletionsVerb),
    /// Share a folder with another account, or manage what is shared
    Share(ShareOptions),
    /// Print completions for a shell
    Completions {
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write those of all commands
    Man {
        /// Where to write them
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DemoOptions {
    /// Where to keep server and devices; without it, a temporary folder that is removed at the end
    #[arg(value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ServerOptions {
    /// The directory of everything that the server keeps
    #[arg(long, value_name = "DIR")]
    pub(crate) data: Option<PathBuf>,
    /// The address and port to listen on for clients
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// A file with these settings
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) metadata: MetadataOptions,
    #[command(flatten)]
    pub(crate) blocks: BlocksOptions,
    /// Where to keep what was read of journals: `memory`, `off`, or memcached://HOST:PORT,HOST:PORT
    #[arg(long, value_name = "URL")]
    pub(crate) cache: Option<String>,
    /// Which part of the server to run
    #[arg(long, value_enum, default_value_t = ServerRole::All)]
    pub(crate) role: ServerRole,
    #[command(flatten)]
    pub(crate) services: ServiceOptions,
    /// How to write the log
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,
}

/// How the processes of a server that has several find each other.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServiceOptions {
    /// The address and port for other services, balancers and monitoring; no client may reach it
    #[arg(long, value_name = "ADDR")]
    pub(crate) service_listen: Option<String>,
    /// The file with the secret that the services share
    #[arg(long, value_name = "FILE")]
    pub(crate) service_secret_file: Option<PathBuf>,
    /// The file with this process's certificate, by which other services know it; calls are then encrypted
    #[arg(long, value_name = "FILE")]
    pub(crate) service_certificate_file: Option<PathBuf>,
    /// The file with the certificate's key
    #[arg(long, value_name = "FILE")]
    pub(crate) service_key_file: Option<PathBuf>,
    /// The file with the authority of all services' certificates; who calls must then show one
    #[arg(long, value_name = "FILE")]
    pub(crate) service_ca_file: Option<PathBuf>,
    /// The service addresses of the meta services, or a name that stands for them, for `block` and `notify-edge`
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) meta: Vec<String>,
    /// The service addresses of all hubs, written alike everywhere, for `meta` and `notify-edge`
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub(crate) hubs: Vec<String>,
}

/// The forms of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// Lines for people
    Text,
    /// One object per line
    Json,
}

/// Where the metadata database is.
#[derive(Debug, Clone, Args)]
pub(crate) struct MetadataOptions {
    /// A MySQL database for the metadata, as mysql://USER@HOST/DATABASE; without it, a file in the data directory
    ///
    /// The password stands in a file or in the variable SYNCLINE_METADATA_PASSWORD. Connections to other
    /// machines are encrypted; `?tls=off` at the URL's end changes that, `?ca=FILE` names an authority of your own.
    #[arg(long, value_name = "URL")]
    pub(crate) metadata: Option<String>,
    /// The file with the password of that database
    #[arg(long, value_name = "FILE")]
    pub(crate) metadata_password_file: Option<PathBuf>,
}

/// Where the blocks are.
#[derive(Debug, Clone, Args)]
pub(crate) struct BlocksOptions {
    /// An S3 bucket for the blocks, as s3://BUCKET/PREFIX; without it, a folder in the data directory
    ///
    /// `?endpoint=URL` names a server other than AWS, `&region=NAME` its region, `&path_style=on|off` whether the
    /// bucket stands in the path, `&ca=FILE` an authority of your own.
    #[arg(long, value_name = "URL")]
    pub(crate) blocks: Option<String>,
    /// The file with the bucket's credentials, as AWS's tools write it
    ///
    /// It has the lines `aws_access_key_id = ...` and `aws_secret_access_key = ...`. Without it the variables
    /// AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are used.
    #[arg(long, value_name = "FILE")]
    pub(crate) blocks_credentials_file: Option<PathBuf>,
}

/// The parts of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ServerRole {
    /// Everything in one process
    All,
    /// Accounts, journals, changes and commits
    Meta,
    /// Takes and hands out blocks
    Block,
    /// Hears which journals grew, and passes it on to edges
    NotifyHub,
    /// Holds the devices' notification streams
    NotifyEdge,
}

#[derive(Debug, Args)]
pub(crate) struct AdminOptions {
    /// The server's data directory
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    pub(crate) data: Option<PathBuf>,
    /// The server's configuration file
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) metadata: MetadataOptions,
    #[command(flatten)]
    pub(crate) blocks: BlocksOptions,
    #[command(subcommand)]
    pub(crate) verb: AdminVerb,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdminVerb {
    /// Manage accounts
    #[command(subcommand)]
    User(UserVerb),
    /// Let all devices compare what they have with what is here, after a backup was restored
    ///
    /// To be run before the server starts on a metadata database that is older than what devices have seen.
    /// They then merge, and delete nothing.
    RaiseEpoch,
    /// Find blocks in a bucket that the metadata database does not know, after a backup was restored
    ///
    /// Small blocks share objects of the bucket, and an older database lacks the newer of them. A running server's
    /// clean-up finds them too, in the course of the day. Removes nothing.
    FindBlocks,
    /// Remove blocks that no file and no version of a file names any more
    ///
    /// A block goes when nobody has named it for a day. A running server does this by itself.
    Gc {
        /// Only show what there is to do
        #[arg(long)]
        dry_run: bool,
    },
    /// Check that every block that a file or a version of it names is there and whole
    ///
    /// Reads all blocks, and changes nothing. The exit code is 1 if any is missing or damaged.
    Verify,
}

#[derive(Debug, Subcommand)]
pub(crate) enum UserVerb {
    /// Add an account
    Add {
        #[arg(value_name = "EMAIL")]
        email: String,
        /// Read the password from standard input instead of asking for it
        #[arg(long)]
        password_stdin: bool,
    },
    /// Give an account another password
    Passwd {
        #[arg(value_name = "EMAIL")]
        email: String,
        /// Read the password from standard input instead of asking for it
        #[arg(long)]
        password_stdin: bool,
        /// Unlink all devices of the account, too
        #[arg(long)]
        unlink_devices: bool,
    },
    /// List the accounts
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DevicesVerb {
    /// End another device's access to the account; the files on it stay there
    Unlink {
        /// Its name, or its id as `devices --json` lists it
        #[arg(value_name = "DEVICE")]
        device: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct LinkOptions {
    /// The server's address, such as https://sync.example.org
    #[arg(value_name = "SERVER_URL")]
    pub(crate) server: String,
    /// The account
    #[arg(long, value_name = "E")]
    pub(crate) email: String,
    /// Read the password from standard input instead of asking for it
    #[arg(long)]
    pub(crate) password_stdin: bool,
    /// The folder to sync; made if there is none
    #[arg(long, value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// This device's name; without it, the machine's
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct StartOptions {
    /// Stay in the foreground, and log to standard error
    #[arg(long)]
    pub(crate) foreground: bool,
    /// Leave the terminal and log to the home; how `start` runs itself in the background
    #[arg(long, hide = true, requires = "foreground")]
    pub(crate) detached: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusOptions {
    /// Go on, and show each change
    #[arg(long)]
    pub(crate) watch: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ExcludeVerb {
    /// List what stays off this device
    List,
    /// Take a folder or file off this device; it stays on the server
    Add {
        #[arg(value_name = "PATH")]
        path: PathBuf,
    },
    /// Bring an excluded folder or file back to this device
    Remove {
        #[arg(value_name = "PATH")]
        path: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigVerb {
    /// Show one setting
    Get {
        #[arg(value_name = "KEY")]
        key: String,
    },
    /// Change a setting
    #[command(after_help = settings_help())]
    Set {
        #[arg(value_name = "KEY")]
        key: String,
        #[arg(value_name = "VALUE")]
        value: String,
    },
    /// Show all settings
    List,
}

/// All settings with what they may be.
fn settings_help() -> String {
    let savings: Vec<&str> = client::settings::savings().collect();
    format!(
        "Settings:\n  delete-guard                  on|off|COUNT[,PERCENT]\n  upload-limit, download-limit  off|RATE\n  \
         {}  on|off",
        savings.chunks(6).map(|some| some.join(", ")).collect::<Vec<_>>().join(",\n  ")
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub(crate) enum DeletionsVerb {
    /// Delete the files on the server too
    Confirm,
    /// Bring the files back to this device
    Undo,
}

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_precedence_over_arg = true, arg_required_else_help = true)]
pub(crate) struct ShareOptions {
    #[command(subcommand)]
    pub(crate) verb: Option<ShareVerb>,
    /// The folder to share
    #[arg(value_name = "FOLDER", required = true)]
    pub(crate) folder: Option<PathBuf>,
    /// The account to share it with
    #[arg(value_name = "EMAIL", required = true)]
    pub(crate) email: Option<String>,
    /// What that account may do
    #[arg(long, value_enum, default_value_t = ShareRole::Editor)]
    pub(crate) role: ShareRole,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ShareVerb {
    /// List shared folders and their members
    List,
    /// Give up a shared folder
    Leave {
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
    /// End an account's membership in a folder of yours
    Remove {
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
        #[arg(value_name = "EMAIL")]
        email: String,
    },
}

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ShareRole {
    Editor,
    Viewer,
}

impl From<ShareRole> for Role {
    fn from(role: ShareRole) -> Self {
        match role {
            ShareRole::Editor => Self::Editor,
            ShareRole::Viewer => Self::Viewer,
        }
    }
}

fn parse_seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if seconds.is_finite() && seconds >= 0.0 { Ok(seconds) } else { Err("not a number of seconds".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn verb(line: &str) -> Verb {
        Arguments::try_parse_from(line.split(' ')).expect("parses").verb
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_folder_can_be_shared_and_shares_be_listed() {
        let Verb::Share(options) = verb("syncline share Photos bob@example.org --role viewer") else { panic!() };
        assert!(options.verb.is_none());
        assert_eq!((options.folder, options.role), (Some("Photos".into()), ShareRole::Viewer));
        let Verb::Share(options) = verb("syncline share list") else { panic!() };
        assert!(matches!(options.verb, Some(ShareVerb::List)));
        let Verb::Share(options) = verb("syncline share remove Photos bob@example.org") else { panic!() };
        assert!(matches!(options.verb, Some(ShareVerb::Remove { .. })));
        let Verb::Share(options) = verb("syncline share ./list bob@example.org") else { panic!() };
        assert_eq!(options.folder, Some("./list".into()));
        assert!(Arguments::try_parse_from(["syncline", "share", "Photos"]).is_err());
    }

    #[test]
    fn every_documented_verb_parses() {
        for line in [
            "demo",
            "demo dir",
            "server --data d --listen 127.0.0.1:0 --role all",
            "server --role block --data d --meta a:1,b:2 --service-listen 127.0.0.1:0 --log-format json",
            "server --role notify-hub --service-listen 127.0.0.1:0 --service-secret-file f",
            "server --role notify-edge --meta a:1 --hubs b:2,c:3",
            "server --data d --cache memcached://h1:11211,h2:11211",
            "admin --data d user add a@b.c --password-stdin",
            "admin --config f user list",
            "admin --data d raise-epoch",
            "admin --data d gc --dry-run --json",
            "admin --data d verify --json",
            "admin --data d find-blocks --json",
            "server --data d --metadata mysql://u@h/d --metadata-password-file f",
            "admin --data d --metadata mysql://u@h/d user list",
            "server --data d --blocks s3://b/p?endpoint=http://h --blocks-credentials-file f",
            "admin --data d --blocks s3://b user list",
            "link http://x --email a@b.c --password-stdin --folder d --name n",
            "unlink",
            "start",
            "start --foreground",
            "stop",
            "status --watch --json",
            "activity",
            "flush --timeout 2.5",
            "filestatus a b",
            "why a",
            "pause",
            "resume",
            "devices",
            "history",
            "revs a",
            "restore a --rev 7",
            "exclude list",
            "exclude add a",
            "exclude remove a",
            "bandwidth-limit 1M off",
            "rebuild-index",
            "rebuild-index --anew",
            "config get delete-guard",
            "config set delete-guard off",
            "config list",
            "deletions confirm",
            "deletions undo",
            "share leave d",
            "completions bash",
            "man --dir d",
            "--home h status",
        ] {
            verb(&format!("syncline {line}"));
        }
    }
}
