//! From what the control process says of a destination to a store and the names in it.

use std::sync::Arc;

use tradewind_ipc::{
    Destination, DestinationName, Dialect as IpcDialect, ErrorCode, HdfsStore as IpcHdfsStore, LargeObjects as IpcLargeObjects,
    Store as IpcStore, SwiftAuth as IpcSwiftAuth, SwiftIdentity,
};
use tradewind_storage::{
    AzureConfig, AzureCredentials, AzureStore, Credentials, Dialect, FauxStore, GcsConfig, GcsCredentials, GcsStore, HdfsAuth, HdfsConfig,
    HdfsStore, LargeObjects, LocalStore, NetStorageConfig, NetStorageStore, ObjectName, RetryPolicy, S3Config, S3Store, Store, StoreError,
    SwiftAuth, SwiftConfig, SwiftStore, UploadError, check_destination,
};

/// Opens the store and finds out whether it takes objects.
pub(crate) async fn open(destination: &Destination) -> Result<Arc<dyn Store>, StoreError> {
    let store = open_store(&destination.store)?;
    let prefix = match &destination.name {
        DestinationName::Into(prefix) => prefix,
        DestinationName::Exact(key) => key.rsplit_once('/').map_or("", |(directory, _)| directory),
    };
    check_destination(store.as_ref(), prefix, &RetryPolicy::default()).await?;
    Ok(store)
}

/// Opens the store. A bucket is not asked yet.
pub(crate) fn open_store(store: &IpcStore) -> Result<Arc<dyn Store>, StoreError> {
    Ok(match store {
        IpcStore::Local { root } => Arc::new(LocalStore::open(root)?),
        IpcStore::Faux => Arc::new(FauxStore),
        IpcStore::S3(s3) => {
            let credentials = match (&s3.access_key, &s3.secret_key) {
                (Some(access), Some(secret)) => {
                    let credentials = Credentials::new(access.clone(), secret.expose());
                    match &s3.session_token {
                        Some(token) => credentials.with_session_token(token.expose()),
                        None => credentials,
                    }
                }
                _ => Credentials::from_env()?,
            };
            let config = S3Config {
                endpoint: s3.endpoint.clone(),
                region: s3.region.clone(),
                bucket: s3.bucket.clone(),
                path_style: Some(s3.path_style),
                dialect: dialect(s3.dialect),
                credentials,
            };
            Arc::new(S3Store::open(&config)?)
        }
        IpcStore::Azure(azure) => {
            let credentials = match (&azure.account_key, &azure.sas) {
                (Some(key), _) => AzureCredentials::key(key.expose())?,
                (None, Some(sas)) => AzureCredentials::sas(sas.expose()),
                (None, None) => AzureCredentials::from_env()?,
            };
            let (account, container, endpoint) = (azure.account.clone(), azure.container.clone(), azure.endpoint.clone());
            Arc::new(AzureStore::open(&AzureConfig { account, container, endpoint, credentials })?)
        }
        IpcStore::NetStorage(store) => Arc::new(NetStorageStore::open(&NetStorageConfig {
            url: store.url.clone(),
            cp_code: store.cp_code.clone(),
            upload_account: store.upload_account.clone(),
            key: store.key.expose().to_owned().into(),
            spool_dir: store.spool_dir.clone(),
            requests_per_s: Some(store.requests_per_s).filter(|requests| *requests > 0),
        })?),
        IpcStore::Swift(swift) => {
            let large_objects = match swift.large_objects {
                IpcLargeObjects::Auto => LargeObjects::Auto,
                IpcLargeObjects::Static => LargeObjects::Slo,
                IpcLargeObjects::Dynamic => LargeObjects::Dlo,
            };
            let auth = swift.auth.as_ref().map_or_else(SwiftAuth::from_env, |auth| Ok(swift_auth(auth)))?;
            Arc::new(SwiftStore::open(&SwiftConfig { container: swift.container.clone(), segments: None, auth, large_objects })?)
        }
        IpcStore::Gcs(gcs) => {
            let credentials = match &gcs.service_account {
                Some(key) => GcsCredentials::ServiceAccount(key.expose().to_owned().into()),
                None if gcs.anonymous => GcsCredentials::Anonymous,
                None => GcsCredentials::Default,
            };
            Arc::new(GcsStore::open(&GcsConfig { bucket: gcs.bucket.clone(), endpoint: gcs.endpoint.clone(), credentials })?)
        }
        IpcStore::Hdfs(IpcHdfsStore { namenodes, rpc_addresses, root, user, delegation_token }) => {
            let auth = match (user, delegation_token) {
                (_, Some(token)) => HdfsAuth::Token(token.expose().to_owned().into()),
                (Some(user), None) => HdfsAuth::User(user.clone()),
                (None, None) => HdfsAuth::from_env()?,
            };
            let (namenodes, rpc_addresses) = (namenodes.clone(), rpc_addresses.clone());
            Arc::new(HdfsStore::open(&HdfsConfig { namenodes, rpc_addresses, root: root.clone(), auth })?)
        }
    })
}

fn swift_auth(auth: &IpcSwiftAuth) -> SwiftAuth {
    let IpcSwiftAuth { auth_url, identity, region, interface } = auth.clone();
    match identity {
        SwiftIdentity::V1 { user, key } => SwiftAuth::V1 { auth_url, user, key: key.expose().to_owned().into() },
        SwiftIdentity::Password { user, user_domain, password, project, project_domain } => {
            let password = password.expose().to_owned().into();
            SwiftAuth::Password { auth_url, user, user_domain, password, project, project_domain, region, interface }
        }
        SwiftIdentity::Application { id, secret } => {
            SwiftAuth::Application { auth_url, id, secret: secret.expose().to_owned().into(), region, interface }
        }
    }
}

fn dialect(dialect: IpcDialect) -> Dialect {
    match dialect {
        // Whether the server really verifies checksums is found out by a probe.
        IpcDialect::Aws => Dialect::Auto,
        IpcDialect::Legacy => Dialect::Legacy,
    }
}

/// How the store calls the files of the transfer.
pub(crate) fn name(name: &DestinationName) -> ObjectName {
    match name {
        DestinationName::Into(prefix) => ObjectName::Into(prefix.clone()),
        DestinationName::Exact(key) => ObjectName::Exact(key.clone()),
    }
}

/// What the control process is told about a store's error.
pub(crate) fn store_code(error: &StoreError) -> ErrorCode {
    match error {
        StoreError::NotFound { .. } => ErrorCode::BucketMissing,
        StoreError::ObjectGone { .. } => ErrorCode::SourceMissing,
        StoreError::ObjectChanged { .. } => ErrorCode::SourceChanged,
        StoreError::AccessDenied { .. } | StoreError::BadCredentials { .. } => ErrorCode::AccessDenied,
        StoreError::Throttled { .. } | StoreError::Unavailable { .. } | StoreError::Timeout { .. } => ErrorCode::StoreUnavailable,
        StoreError::ChecksumMismatch { .. } => ErrorCode::IntegrityMismatch,
        StoreError::DestinationExists { .. } => ErrorCode::DestinationExists,
        StoreError::Full { .. } => ErrorCode::DiskFull,
        StoreError::KeptBlock { .. } => ErrorCode::StagingFailed,
        StoreError::InvalidName { .. } => ErrorCode::DestinationInvalid,
        StoreError::Configuration { .. } => ErrorCode::Unsupported,
        _ => ErrorCode::StoreRejected,
    }
}

/// What the control process is told about a failed upload.
pub(crate) fn upload_code(error: &UploadError) -> ErrorCode {
    match error {
        UploadError::Store(error) => store_code(error),
        UploadError::Cancelled => ErrorCode::Cancelled,
        UploadError::FileChanged { .. } => ErrorCode::SourceChanged,
        UploadError::PieceChecksum { .. } => ErrorCode::IntegrityMismatch,
        UploadError::PoolTooSmall { .. } => ErrorCode::ResourceExhausted,
        _ => ErrorCode::ProtocolViolation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The client goes on by itself after the one, and not after the other.
    #[test]
    fn a_staging_disk_is_not_the_destinations_fault() {
        let kept = || StoreError::KeptBlock { detail: "/mnt/disk".to_owned() };
        assert_eq!((store_code(&kept()), upload_code(&kept().into())), (ErrorCode::StagingFailed, ErrorCode::StagingFailed));
        let full = || StoreError::Full { place: "/mnt/store".to_owned(), detail: String::new() };
        assert_eq!((store_code(&full()), upload_code(&full().into())), (ErrorCode::DiskFull, ErrorCode::DiskFull));
    }
}
