//! `share` and what belongs to it.

use super::Context;
use crate::arguments::{ShareOptions, ShareVerb};
use crate::output::safe;
use client::control::protocol::{ShareEntry, SharesReply};
use client::{Command, Failure};
use model::Role;

/// Shares a folder, or manages what is shared.
pub(crate) fn share(options: ShareOptions, context: &Context) -> Result<(), Failure> {
    match options {
        ShareOptions { verb: Some(ShareVerb::List), .. } => {
            let reply: SharesReply = context.perform(Command::Shares)?;
            context.show(&reply, |reply| reply.shares.iter().map(share_text).collect())
        }
        ShareOptions { verb: Some(ShareVerb::Leave { folder }), .. } => {
            context.order(Command::Leave { folder: context.wire(&folder)? })
        }
        ShareOptions { verb: Some(ShareVerb::Remove { folder, email }), .. } => {
            context.order(Command::RemoveMember { folder: context.wire(&folder)?, email })
        }
        ShareOptions { verb: None, folder: Some(folder), email: Some(email), role } => {
            context.order(Command::Share { folder: context.wire(&folder)?, email, role: role.into() })
        }
        ShareOptions { .. } => Err(Failure::usage("a folder and an account are needed")
            .with_hint("syncline share FOLDER EMAIL [--role editor|viewer]")),
    }
}

fn share_text(share: &ShareEntry) -> String {
    let name = share.name.as_deref().map_or_else(|| "(without a name)".to_owned(), safe);
    let place = if share.mounted { "" } else { ", not in your folder" };
    let mut text = format!("{name} (you: {}{place})\n", role_text(share.role));
    for member in &share.members {
        text += &format!("  {} ({})\n", safe(&member.email), role_text(member.role));
    }
    text
}

const fn role_text(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Editor => "editor",
        Role::Owner => "owner",
    }
}
