//! Where the bucket is, and how to reach it.

use percent_encoding::percent_decode_str;
use std::fmt;
use std::path::PathBuf;
use url::Url;

/// The region of a server that does not care for regions.
const DEFAULT_REGION: &str = "us-east-1";

/// Where the bucket is. The secrets are apart, since a URL ends up in process lists and logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct S3Options {
    pub(crate) bucket: String,
    /// What stands before the names of all objects; empty, or without a slash at its ends.
    pub(crate) prefix: String,
    /// The server; `None`: AWS in that region.
    pub(crate) endpoint: Option<String>,
    pub(crate) region: String,
    /// Whether the bucket stands in the path, and not in the host's name.
    pub(crate) path_style: bool,
    /// A file with the authority that the server's certificate is from.
    pub(crate) authority: Option<PathBuf>,
    /// Whether small blocks that come together share an object.
    pub(crate) packs: bool,
}

/// Why a URL names no bucket, or a text holds no credentials.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BadOptions {
    #[error("`{url}` is not a URL like s3://BUCKET/PREFIX")]
    Url { url: String },
    #[error("the URL of the bucket holds credentials")]
    Secret,
    #[error("the URL of the bucket has an unknown setting `{name}`")]
    Unknown { name: String },
    #[error("the URL of the bucket sets `{name}` to `{value}`")]
    Value { name: String, value: String },
    #[error("the credentials name no `{name}`")]
    NoCredential { name: &'static str },
}

impl BadOptions {
    /// What to do about it.
    #[must_use]
    pub const fn hint(&self) -> &'static str {
        match self {
            Self::Url { .. } => "write it like s3://blocks/syncline?endpoint=https://s3.example.org&path_style=on",
            Self::Secret => "take them out, and put them into a file that only the server can read",
            Self::Unknown { .. } | Self::Value { .. } => {
                "the settings are endpoint=URL, region=NAME, path_style=on|off, ca=FILE and packs=on|off"
            }
            Self::NoCredential { .. } => {
                "the file has a line `aws_access_key_id = …` and a line `aws_secret_access_key = …`"
            }
        }
    }
}

impl S3Options {
    /// Reads `s3://BUCKET[/PREFIX][?endpoint=URL&region=NAME&path_style=on|off&ca=FILE&packs=on|off]`. With an endpoint
    /// the path style is on unless the URL says otherwise: what is not AWS rarely has a name per bucket.
    ///
    /// # Errors
    /// [`BadOptions`].
    pub fn from_url(text: &str) -> Result<Self, BadOptions> {
        let bad = || BadOptions::Url { url: text.split('?').next().unwrap_or_default().to_owned() };
        let url = Url::parse(text).ok().filter(|url| url.scheme() == "s3").ok_or_else(bad)?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(BadOptions::Secret);
        }
        let bucket = url.host_str().filter(|host| !host.is_empty() && url.port().is_none()).ok_or_else(bad)?;
        let prefix = percent_decode_str(url.path().trim_matches('/')).decode_utf8().map_err(|_| bad())?;
        if prefix.contains("//") {
            return Err(bad());
        }
        let (mut endpoint, mut region, mut path_style, mut authority, mut packs) = (None, None, None, None, true);
        for (name, value) in url.query_pairs() {
            match (&*name, &*value) {
                ("endpoint", server) if is_server(server) => endpoint = Some(server.trim_end_matches('/').to_owned()),
                ("region", name) if !name.is_empty() => region = Some(name.to_owned()),
                ("path_style", "on") => path_style = Some(true),
                ("path_style", "off") => path_style = Some(false),
                ("packs", "on") => packs = true,
                ("packs", "off") => packs = false,
                ("ca", file) if !file.is_empty() => authority = Some(PathBuf::from(file)),
                ("endpoint" | "region" | "path_style" | "ca" | "packs", value) => {
                    return Err(BadOptions::Value { name: name.into(), value: value.into() });
                }
                (name, _) => return Err(BadOptions::Unknown { name: name.into() }),
            }
        }
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix: prefix.into_owned(),
            path_style: path_style.unwrap_or(endpoint.is_some()),
            endpoint,
            region: region.unwrap_or_else(|| DEFAULT_REGION.to_owned()),
            authority,
            packs,
        })
    }

    /// The same place for who only looks: no pack is written there, and so the bucket is not marked to have some.
    #[must_use]
    pub fn without_packs(self) -> Self {
        Self { packs: false, ..self }
    }

    /// Where the blocks are, for messages.
    #[must_use]
    pub fn place(&self) -> String {
        let slash = if self.prefix.is_empty() { "" } else { "/" };
        format!("s3://{}{slash}{}", self.bucket, self.prefix)
    }
}

/// A plain address of a server, without a path: the bucket's place in it is another setting's.
fn is_server(text: &str) -> bool {
    Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.path() == "/"
            && url.query().is_none()
    })
}

/// The key that the requests are signed with. No log and no message shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    pub(crate) key_id: String,
    pub(crate) secret: String,
    /// For credentials that are lent for a time.
    pub(crate) token: Option<String>,
}

impl Credentials {
    /// Credentials from their parts.
    #[must_use]
    pub const fn new(key_id: String, secret: String, token: Option<String>) -> Self {
        Self { key_id, secret, token }
    }

    /// Reads the lines `aws_access_key_id = …`, `aws_secret_access_key = …` and perhaps
    /// `aws_session_token = …`, as AWS's own tools write them. Of several sections the last one counts.
    ///
    /// # Errors
    /// [`BadOptions::NoCredential`].
    pub fn from_text(text: &str) -> Result<Self, BadOptions> {
        let line = |name: &str| {
            text.lines().rev().find_map(|line| {
                let (found, value) = line.split_once('=')?;
                (found.trim() == name && !value.trim().is_empty()).then(|| value.trim().to_owned())
            })
        };
        let needed = |name: &'static str| line(name).ok_or(BadOptions::NoCredential { name });
        Ok(Self {
            key_id: needed("aws_access_key_id")?,
            secret: needed("aws_secret_access_key")?,
            token: line("aws_session_token"),
        })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> S3Options {
        S3Options::from_url(text).expect("is valid")
    }

    #[test]
    fn a_url_names_bucket_and_prefix() {
        let aws = parse("s3://photos/team/blocks/?region=eu-central-1");
        assert_eq!((aws.bucket.as_str(), aws.prefix.as_str()), ("photos", "team/blocks"));
        assert_eq!((aws.region.as_str(), aws.path_style, &aws.endpoint), ("eu-central-1", false, &None));
        assert_eq!(aws.place(), "s3://photos/team/blocks");
        assert_eq!(parse("s3://photos").place(), "s3://photos");
    }

    #[test]
    fn another_server_is_asked_in_path_style_unless_the_url_says_otherwise() {
        let ceph = parse("s3://photos?endpoint=http://10.0.0.1:7480/");
        assert_eq!((ceph.endpoint.as_deref(), ceph.path_style), (Some("http://10.0.0.1:7480"), true));
        assert!(!parse("s3://photos?endpoint=https://s3.example.org&path_style=off").path_style);
    }

    #[test]
    fn a_url_that_names_no_bucket_is_refused() {
        for text in ["photos", "http://photos", "s3:///prefix", "s3://photos/a//b", "s3://b:80"] {
            assert!(matches!(S3Options::from_url(text), Err(BadOptions::Url { .. })), "{text}");
        }
        assert_eq!(S3Options::from_url("s3://key:secret@photos"), Err(BadOptions::Secret));
        let unknown = S3Options::from_url("s3://photos?colour=red");
        assert_eq!(unknown, Err(BadOptions::Unknown { name: "colour".into() }));
        for setting in
            ["path_style=maybe", "packs=", "endpoint=photos", "endpoint=https://h/bucket", "endpoint=https://k:s@h"]
        {
            let refused = S3Options::from_url(&format!("s3://photos?{setting}"));
            assert!(matches!(refused, Err(BadOptions::Value { .. })), "{setting}");
        }
    }

    #[test]
    fn credentials_are_read_as_awss_tools_write_them() {
        let text = "[default]\r\naws_access_key_id = AK\n aws_secret_access_key=s/e=c\n";
        let credentials = Credentials::from_text(text).expect("is valid");
        assert_eq!(credentials, Credentials::new("AK".into(), "s/e=c".into(), None));
        assert_eq!(format!("{credentials:?}"), "Credentials(..)");
        let missing = Credentials::from_text("aws_access_key_id = AK\naws_secret_access_key =\n");
        assert_eq!(missing, Err(BadOptions::NoCredential { name: "aws_secret_access_key" }));
    }
}
