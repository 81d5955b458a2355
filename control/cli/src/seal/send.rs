//! `tradewind send --seal`: files are sealed while they are read, and what the server gets is the sealed files.

use std::sync::Arc;

use clap::Args;
use tradewind_api::DestinationUrl;
use tradewind_client::{SealedNames, Sealing, Source, SourceError};
use tradewind_seal::sealed_size;

use super::SealKeyOptions;
use crate::failure::Failure;
use crate::interrupt::Interrupts;
use crate::sources::{Walked, check_name};

/// What `tradewind send` takes for sealing.
#[derive(Debug, Default, Clone, Args)]
pub(crate) struct SendSealOptions {
    /// Encrypt files before they leave this machine, with a key that stays with you: FILE is stored as FILE.sealed.
    #[arg(long)]
    pub(crate) seal: bool,
    /// Encrypt names too, those of directories included.
    #[arg(long, requires = "seal")]
    pub(crate) seal_names: bool,
    #[command(flatten)]
    pub(crate) key: SealKeyOptions,
}

/// How the files of one command are sealed.
#[derive(Debug)]
pub(crate) struct SealPlan {
    names: SealedNames,
    /// Not for a dry run that does without the key.
    sealing: Option<Arc<Sealing>>,
}

impl SendSealOptions {
    /// How to seal, if that is wanted. Asks for the passphrase where it has to.
    pub(crate) async fn plan(
        &self,
        destination: &DestinationUrl,
        dry_run: bool,
        interrupts: &mut Interrupts,
    ) -> Result<Option<SealPlan>, Failure> {
        if !self.seal {
            return self.key.unused("--seal").map(|()| None);
        }
        let names_one_file = destination.names_one_file();
        let seals_names = self.seal_names && !names_one_file;
        let master = if dry_run && !seals_names { None } else { Some(Arc::new(self.key.master_key(interrupts).await?)) };
        let names = match &master {
            Some(master) if seals_names => SealedNames::Sealed(Arc::clone(master)),
            _ if names_one_file => SealedNames::Kept,
            _ => SealedNames::Suffix,
        };
        let (store, place) = place_of(destination);
        let sealing = master.map(|master| Arc::new(Sealing::new(master, &store, place)));
        Ok(Some(SealPlan { names, sealing }))
    }
}

impl SealPlan {
    /// The key and the destination.
    pub(crate) fn sealing(&self) -> Option<Arc<Sealing>> {
        self.sealing.clone()
    }

    /// What was found, as it will be at the destination.
    pub(crate) fn sealed(&self, walked: Walked) -> Walked {
        let Walked::File { source: Source { path, name, kind, seen }, bytes } = walked else { return walked };
        let sealed = match self.names.name(&name) {
            Ok(sealed) => check_name(&path, &sealed).map(|()| sealed.into_owned()),
            Err(error) => {
                let name = String::from_utf8_lossy(&name).into_owned();
                Err(SourceError::Name { path: path.clone(), name, reason: error.to_string() })
            }
        };
        match sealed {
            Ok(name) => Walked::File { source: Source { path, name, kind, seen }, bytes: sealed_size(bytes).unwrap_or(bytes) },
            Err(error) => Walked::Failed(error),
        }
    }
}

/// The store, and what stands before the names of files to make them their objects' URLs: always the same for one object of a store.
fn place_of(destination: &DestinationUrl) -> (String, String) {
    let mut place = destination.to_string();
    if destination.names_one_file() {
        let folder = place.rfind(['/', ':']).map_or(0, |at| at + 1);
        place.truncate(folder);
    }
    let store = match destination {
        DestinationUrl::Bucket { scheme, bucket, .. } => format!("{}://{bucket}", scheme.as_str()),
        DestinationUrl::File { .. } => "file:".to_owned(),
        DestinationUrl::Named { store, .. } => format!("{store}:"),
    };
    (store, place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_one_url_whatever_its_destination_is() {
        for (url, name, expected) in [
            ("s3://bucket", "d/f", ("s3://bucket", "s3://bucket/d/f")),
            ("s3://bucket/", "d/f", ("s3://bucket", "s3://bucket/d/f")),
            ("s3://bucket/d/", "f", ("s3://bucket", "s3://bucket/d/f")),
            ("s3://bucket/d/f", "f", ("s3://bucket", "s3://bucket/d/f")),
            ("store:", "d/f", ("store:", "store:d/f")),
            ("store:d/", "f", ("store:", "store:d/f")),
            ("store:f", "f", ("store:", "store:f")),
            ("file:///", "d/f", ("file:", "file:///d/f")),
            ("file:///d/f", "f", ("file:", "file:///d/f")),
        ] {
            let (store, place) = place_of(&DestinationUrl::parse(url).unwrap());
            assert_eq!((store.as_str(), (place + name).as_str()), expected, "{url}");
        }
    }

    #[tokio::test]
    async fn a_key_without_use_and_names_without_sealing_are_mistakes() {
        use clap::Parser as _;
        let send = |more: &str| {
            let words = format!("tradewind send a store:in/ --server far {more}");
            match crate::options::Options::try_parse_from(words.split_whitespace()).map(|options| options.command) {
                Ok(crate::options::Command::Send(options)) => Some(options.seal),
                _ => None,
            }
        };
        assert!(send("--seal-names").is_none() && send("--seal --key-file k --passphrase-file p").is_none());
        let (destination, mut interrupts) = (DestinationUrl::parse("store:in/").unwrap(), Interrupts::new().unwrap());
        for unused in ["--key-file k", "--passphrase-file p"] {
            let failure = send(unused).unwrap().plan(&destination, false, &mut interrupts).await.unwrap_err();
            assert_eq!(failure.exit_code(), tradewind_api::exit::USAGE);
        }
        assert!(send("").unwrap().plan(&destination, false, &mut interrupts).await.unwrap().is_none());
        // A dry run needs no key for names that are only longer.
        let plan = send("--seal").unwrap().plan(&destination, true, &mut interrupts).await.unwrap().unwrap();
        assert!(plan.sealing().is_none());
    }

    #[test]
    fn what_is_too_long_once_it_is_sealed_is_left_out_by_name() {
        let plan = SealPlan { names: SealedNames::Suffix, sealing: None };
        let walked = |bytes| Walked::File { source: Source::file("p".into(), vec![b'n'; bytes]), bytes: 10 };
        let Walked::File { source, bytes } = plan.sealed(walked(248)) else { panic!("it fits") };
        assert_eq!((source.name.len(), bytes), (255, 144 + 10 + 16));
        assert!(matches!(plan.sealed(walked(249)), Walked::Failed(SourceError::Name { .. })));
        assert!(matches!(plan.sealed(Walked::Unselected), Walked::Unselected));
    }
}
