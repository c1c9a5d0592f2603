//! Parses and compares platforms, as typed by users and as reported by engines and registries.
//!
//! Source: containerd/platforms `platforms.go` (`Parse`) and `database.go`; the OCI image spec, "Image Index".

use std::env::consts;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// A platform, such as `linux/arm64` or `linux/arm/v6`. Serializes to the JSON that engines accept for the
/// query parameter `platform` of their API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Platform {
    pub os: String,
    #[serde(rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    pub architecture: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl<'de> Deserialize<'de> for Platform {
    /// Reads a platform that an engine or a registry sent, without normalizing its values. A value that is
    /// not a string counts as missing.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let text = |key: &str| value[key].as_str().map(str::to_owned);
        Ok(Self {
            os: text("os").unwrap_or_default(),
            os_version: text("os.version"),
            architecture: text("architecture").unwrap_or_default(),
            variant: text("variant"),
        })
    }
}

/// The value of the option `--platform`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlatformSelection {
    One(Platform),
    /// All platforms of the image. The push fails if the engine lacks one of these platforms.
    All,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    #[error("write os[/arch[/variant]], for example linux/arm64, or `all`")]
    Format,
    #[error("neither an operating system nor an architecture")]
    Unknown,
}

const SYSTEMS: [&str; 17] = [
    "aix",
    "android",
    "darwin",
    "dragonfly",
    "freebsd",
    "hurd",
    "illumos",
    "ios",
    "js",
    "linux",
    "nacl",
    "netbsd",
    "openbsd",
    "plan9",
    "solaris",
    "windows",
    "zos",
];
const ARCHITECTURES: [&str; 24] = [
    "386",
    "amd64",
    "amd64p32",
    "arm",
    "armbe",
    "arm64",
    "arm64be",
    "ppc64",
    "ppc64le",
    "loong64",
    "mips",
    "mipsle",
    "mips64",
    "mips64le",
    "mips64p32",
    "mips64p32le",
    "ppc",
    "riscv",
    "riscv64",
    "s390",
    "s390x",
    "sparc",
    "sparc64",
    "wasm",
];

impl PlatformSelection {
    /// Returns the selected platform, or `None` if all platforms are selected.
    pub fn one(&self) -> Option<&Platform> {
        match self {
            Self::One(platform) => Some(platform),
            Self::All => None,
        }
    }
}

impl FromStr for PlatformSelection {
    type Err = PlatformError;

    fn from_str(typed: &str) -> Result<Self, PlatformError> {
        if typed.eq_ignore_ascii_case("all") { Ok(Self::All) } else { typed.parse().map(Self::One) }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(typed: &str) -> Result<Self, PlatformError> {
        let is_word = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
        };
        let parts: Vec<&str> = typed.split('/').collect();
        // Split off the OS version, as in `windows(10.0.17763)/amd64`.
        let (first, version) = match parts[0].strip_suffix(')').and_then(|rest| rest.split_once('(')) {
            Some((os, version)) => (os, Some(version)),
            None => (parts[0], None),
        };
        let is_version = |text: &str| {
            !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        let words = [first].into_iter().chain(parts[1..].iter().copied());
        if !words.clone().all(is_word) || version.is_some_and(|version| !is_version(version)) {
            return Err(PlatformError::Format);
        }
        let of = |os: String, (architecture, variant): (String, Option<String>)| Self {
            os,
            os_version: version.map(str::to_owned),
            architecture,
            variant,
        };
        match words.collect::<Vec<_>>().as_slice() {
            [word] => {
                let os = system(word);
                if SYSTEMS.contains(&os.as_str()) {
                    return Ok(of(os, without_default(architecture(consts::ARCH, ""))));
                }
                let found = without_default(architecture(word, ""));
                if version.is_none() && ARCHITECTURES.contains(&found.0.as_str()) {
                    return Ok(of(system(consts::OS), found));
                }
                Err(PlatformError::Unknown)
            }
            [os, word] => Ok(of(system(os), without_default(architecture(word, "")))),
            [os, word, variant] => {
                let (architecture, variant) = architecture(word, variant);
                let is_plain_arm64 = architecture == "arm64" && variant.is_none();
                let variant = if is_plain_arm64 { Some("v8".to_owned()) } else { variant };
                Ok(of(system(os), (architecture, variant)))
            }
            _ => Err(PlatformError::Format),
        }
    }
}

fn system(word: &str) -> String {
    match word.to_lowercase().as_str() {
        "macos" => "darwin".to_owned(),
        word => word.to_owned(),
    }
}

/// Returns the normalized names of an architecture and a variant; `aarch64` becomes `arm64`.
fn architecture(word: &str, variant: &str) -> (String, Option<String>) {
    let (word, variant) = (word.to_lowercase(), variant.to_lowercase());
    let (word, variant) = match (word.as_str(), variant.as_str()) {
        ("i386" | "x86", _) => ("386", ""),
        ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
        ("aarch64", variant) => ("arm64", variant),
        ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
        ("armel", _) | ("arm", "6") => ("arm", "v6"),
        ("arm", "5") => ("arm", "v5"),
        ("arm", "8") => ("arm", "v8"),
        other => other,
    };
    (word.to_owned(), Some(variant.to_owned()).filter(|variant| !variant.is_empty()))
}

/// Removes the variant `v7` of `arm`, which is the default. Used if the user typed no variant.
fn without_default((architecture, variant): (String, Option<String>)) -> (String, Option<String>) {
    let is_usual = architecture == "arm" && variant.as_deref() == Some("v7");
    (architecture, variant.filter(|_| !is_usual))
}

impl Platform {
    /// Returns whether two platforms are the same: `linux/arm64` is `linux/arm64/v8`. OS versions are
    /// compared only if both platforms have one.
    pub fn is(&self, other: &Self) -> bool {
        let usual = |platform: &Self| match (platform.architecture.as_str(), platform.variant.as_deref()) {
            ("arm64", None) => Some("v8".to_owned()),
            ("arm", None) => Some("v7".to_owned()),
            (_, variant) => variant.map(str::to_owned),
        };
        let versions = self.os_version.as_ref().zip(other.os_version.as_ref());
        self.os == other.os
            && self.architecture == other.architecture
            && usual(self) == usual(other)
            && versions.is_none_or(|(own, other)| own == other)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.os)?;
        if let Some(version) = &self.os_version {
            write!(f, "({version})")?;
        }
        write!(f, "/{}", self.architecture)?;
        match &self.variant {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_platforms_as_containerd_does() {
        let here = |os: &str| format!("{os}/{}", architecture(consts::ARCH, "").0);
        let table = [
            ("linux/amd64", Ok("linux/amd64".to_owned())),
            ("Linux/x86_64", Ok("linux/amd64".to_owned())),
            ("linux/x86-64/v1", Ok("linux/amd64".to_owned())),
            ("linux/amd64/v3", Ok("linux/amd64/v3".to_owned())),
            ("linux/i386", Ok("linux/386".to_owned())),
            ("linux/aarch64", Ok("linux/arm64".to_owned())),
            ("linux/arm64/v8", Ok("linux/arm64/v8".to_owned())),
            ("linux/arm64/8", Ok("linux/arm64/v8".to_owned())),
            ("linux/arm64/v9", Ok("linux/arm64/v9".to_owned())),
            ("linux/arm", Ok("linux/arm".to_owned())),
            ("linux/arm/v7", Ok("linux/arm/v7".to_owned())),
            ("linux/arm/6", Ok("linux/arm/v6".to_owned())),
            ("linux/armhf", Ok("linux/arm".to_owned())),
            ("linux/armel", Ok("linux/arm/v6".to_owned())),
            ("macos/arm64", Ok("darwin/arm64".to_owned())),
            ("made-up/chip", Ok("made-up/chip".to_owned())),
            ("windows(10.0.17763)/amd64", Ok("windows(10.0.17763)/amd64".to_owned())),
            ("linux", Ok(here("linux"))),
            ("windows", Ok(here("windows"))),
            ("s390x", Ok(format!("{}/s390x", system(consts::OS)))),
            ("armhf", Ok(format!("{}/arm", system(consts::OS)))),
            ("nothing", Err(PlatformError::Unknown)),
            ("linux/a/b/c", Err(PlatformError::Format)),
            ("linux/", Err(PlatformError::Format)),
            ("", Err(PlatformError::Format)),
            ("linux/*", Err(PlatformError::Format)),
            ("linux/amd64,linux/arm64", Err(PlatformError::Format)),
        ];
        for (typed, want) in table {
            assert_eq!(typed.parse::<Platform>().map(|platform| platform.to_string()), want, "{typed}");
        }
        assert_eq!("ALL".parse(), Ok(PlatformSelection::All));
    }

    #[test]
    fn serializes_to_the_json_that_engines_expect() {
        let json = |typed: &str| serde_json::to_string(&typed.parse::<Platform>().unwrap()).unwrap();
        assert_eq!(json("linux/arm64/v8"), r#"{"os":"linux","architecture":"arm64","variant":"v8"}"#);
        assert_eq!(
            json("windows(1.2)/amd64"),
            r#"{"os":"windows","os.version":"1.2","architecture":"amd64"}"#
        );
    }

    #[test]
    fn missing_variant_equals_the_usual_one() {
        let table = [
            ("linux/arm64", "linux/arm64/v8", true),
            ("linux/arm", "linux/arm/v7", true),
            ("linux/arm", "linux/arm/v6", false),
            ("linux/amd64", "linux/arm64", false),
            ("windows(1)/amd64", "windows/amd64", true),
            ("windows(1)/amd64", "windows(2)/amd64", false),
        ];
        for (a, b, want) in table {
            let [a, b] = [a, b].map(|typed| typed.parse::<Platform>().unwrap());
            assert_eq!((a.is(&b), b.is(&a)), (want, want), "{a} {b}");
        }
    }
}
