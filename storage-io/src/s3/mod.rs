//! S3 and what speaks like it, by aws-sdk-s3.
//!
//! Payload is neither hashed nor signed nor copied here: requests carry `UNSIGNED-PAYLOAD`, the CRC-64/NVME that was computed
//! at the source, and the pool slots as body. What the SDK would do by itself and must not (measured in storage.md): its own
//! checksums, payload signing, chunked trailers that old servers refuse, stalled-stream protection that kills a
//! back-pressured upload, retries below ours.

pub(crate) mod body;
mod conditions;
mod config;
mod errors;
mod list;
mod probe;
mod read;
mod upload;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{BehaviorVersion, Region, RequestChecksumCalculation, ResponseChecksumValidation, StalledStreamProtectionConfig};
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, ChecksumType};
use tokio::sync::OnceCell;

pub use config::{Credentials, Dialect, S3Config};

use crate::asked::Asked;
use crate::checksum::Crc64;
use crate::error::StoreError;
use crate::existing::{Existing, Found};
use crate::list::{Depth, Listing};
use crate::metadata::{TOKEN, described, metadata, text_key};
use crate::store::{Body, Limits, ObjectInfo, ObjectKey, ObjectMeta, ObjectRange, Store, StoredObject, Upload};
use conditions::Conditions;
use upload::S3Upload;

/// The object limit is what the part limits allow; stores that take less say so when the upload is completed.
const LIMITS: Limits = tradewind_parts::S3_LIMITS;

/// How long setting up a connection may take. An answer's deadline is set by the retry policy.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// A bucket.
#[derive(Clone, Debug)]
pub struct S3Store(Arc<Bucket>);

#[derive(Debug)]
struct Bucket {
    client: Client,
    name: String,
    place: String,
    dialect: Dialect,
    /// Whether the server verifies CRC-64/NVME; known after the first probe.
    checksums: OnceCell<bool>,
    conditions: Conditions,
}

impl S3Store {
    /// Prepares a client; sends nothing. One store should serve all transfers to its bucket: it keeps the connections and what
    /// the probe found.
    ///
    /// # Errors
    /// [`StoreError::Configuration`] when the description is not usable.
    pub fn open(config: &S3Config) -> Result<Self, StoreError> {
        config.validate()?;
        let credentials = &config.credentials;
        let token = credentials.session_token.as_ref().map(|token| token.to_string());
        let keys = aws_sdk_s3::config::Credentials::new(&credentials.access_key, credentials.secret_key.as_str(), token, None, "tradewind");
        let mut sdk = aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(config.region.clone()))
            .credentials_provider(keys)
            .force_path_style(config.path_style.unwrap_or(config.endpoint.is_some()))
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(CONNECT_DEADLINE).build())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired);
        if let Some(endpoint) = &config.endpoint {
            sdk = sdk.endpoint_url(endpoint);
        }
        let checksums = match config.dialect {
            Dialect::Auto => OnceCell::new(),
            Dialect::Aws => OnceCell::new_with(Some(true)),
            Dialect::Legacy => OnceCell::new_with(Some(false)),
        };
        Ok(Self(Arc::new(Bucket {
            client: Client::from_conf(sdk.build()),
            name: config.bucket.clone(),
            place: config.place(),
            dialect: config.dialect,
            checksums,
            conditions: Conditions::new(config.dialect != Dialect::Legacy),
        })))
    }

    /// Whether this server verifies checksums, once it is known: at once with an explicit dialect, else after the first
    /// [`Store::check`] or write.
    #[must_use]
    pub fn verifies_checksums(&self) -> Option<bool> {
        self.0.checksums.get().copied()
    }

    /// Whether this server has proved, in a write of many small objects, that it keeps to the condition "only where nothing is".
    #[must_use]
    pub fn keeps_conditions(&self) -> bool {
        self.0.conditions.kept()
    }
}

impl Bucket {
    fn asked<'a>(&'a self, action: &'static str, object: &'a str, bytes: u64) -> Asked<'a> {
        Asked { place: &self.place, action, object, bytes }
    }

    /// The condition to send: only where overwriting is not wanted and the server has conditions.
    fn condition(&self, meta: &ObjectMeta) -> Option<String> {
        (!meta.overwrite && self.conditions.sent()).then(|| "*".to_owned())
    }

    /// Notes that the server has no conditional writes. True if that may explain the error and it is worth trying without.
    fn drops_condition(&self, sent: bool, error: &StoreError) -> bool {
        let drop = sent && self.dialect == Dialect::Auto && matches!(error, StoreError::NotSupported { .. });
        if drop {
            tracing::warn!(place = self.place, "the store has no conditional writes; existing objects are found by looking only");
            self.conditions.give_up();
        }
        drop
    }

    async fn put_once(&self, key: &str, meta: &ObjectMeta, body: &Body, condition: Option<String>) -> Result<StoredObject, StoreError> {
        let checksums = self.checksums(key).await?;
        let answer = self
            .client
            .put_object()
            .bucket(&self.name)
            .key(key)
            .content_length(signed(body.len()))
            .body(body::sdk_body(body))
            .set_metadata(Some(metadata(meta)))
            .set_checksum_crc64_nvme(checksums.then(|| body.crc().to_base64()))
            .set_if_none_match(condition)
            .customize()
            .disable_payload_signing()
            .send()
            .await
            .map_err(|error| self.asked("put an object", key, body.len()).map(&error))?;
        check_answer(key, answer.checksum_crc64_nvme(), body.crc())?;
        let version_id = answer.version_id().map(str::to_owned);
        Ok(StoredObject { etag: answer.e_tag().map(bare), crc: body.crc(), verified_by_store: checksums, version_id })
    }

    /// Writes an object of ours a second time. A server that keeps to conditions refuses that, and need not be looked at before
    /// small writes any more; another one replaces the object with itself, or what somebody else has put there in the milliseconds since
    /// the first write (which no look can see either). Returns the account of what is there in the end.
    async fn prove_conditions(&self, key: &str, meta: &ObjectMeta, body: &Body, first: StoredObject) -> Result<StoredObject, StoreError> {
        match self.put_once(key, meta, body, self.condition(meta)).await {
            Ok(second) => {
                tracing::info!(
                    place = self.place,
                    "the store takes conditions and does not keep to them; it is looked at before each write"
                );
                Ok(second)
            }
            Err(StoreError::DestinationExists { .. }) => {
                self.conditions.prove();
                tracing::info!(place = self.place, "the store keeps to conditions; it is not looked at before small writes");
                Ok(first)
            }
            // It may or may not have been written, by the same bytes. The next process will ask again.
            Err(error) => {
                tracing::debug!(place = self.place, %error, "the store did not say whether it keeps to conditions");
                Ok(first)
            }
        }
    }
}

#[async_trait]
impl Existing for Bucket {
    async fn look(&self, key: &str) -> Result<Option<Found>, StoreError> {
        let request = self.client.head_object().bucket(&self.name).key(key).checksum_mode(ChecksumMode::Enabled);
        match request.send().await {
            Ok(object) => Ok(Some(Found {
                info: ObjectInfo {
                    size: object.content_length().and_then(|size| u64::try_from(size).ok()).unwrap_or(0),
                    etag: object.e_tag().map(bare),
                    crc: full_object_crc(object.checksum_type(), object.checksum_crc64_nvme()),
                    modified_ns: nanoseconds(object.last_modified()),
                    ..described(object.metadata())
                },
                token: object.metadata().and_then(|metadata| metadata.get(TOKEN)).cloned(),
                version_id: object.version_id().map(str::to_owned),
            })),
            Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => Ok(None),
            Err(error) => Err(self.asked("look for an object", key, 0).map(&error)),
        }
    }

    fn computes_what_it_tells(&self) -> bool {
        true
    }

    fn may_refuse_blind_writes(&self) -> bool {
        self.conditions.sent()
    }

    fn refuses_blind_writes(&self) -> bool {
        self.conditions.sent() && self.conditions.kept()
    }
}

#[async_trait]
impl Store for S3Store {
    fn place(&self) -> String {
        self.0.place.clone()
    }

    fn takes_only_text(&self) -> bool {
        true
    }

    fn limits(&self) -> Limits {
        LIMITS
    }

    async fn check(&self, prefix: &str) -> Result<(), StoreError> {
        self.0.check(prefix).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<Option<ObjectInfo>, StoreError> {
        Ok(self.0.look(&text_key(key)?).await?.map(|found| found.info))
    }

    async fn read(&self, key: &ObjectKey, range: Range<u64>, expected: Option<&ObjectInfo>) -> Result<ObjectRange, StoreError> {
        self.0.read(&text_key(key)?, range, expected).await
    }

    async fn list(&self, prefix: &str, after: Option<&[u8]>, limit: usize, depth: Depth) -> Result<Listing, StoreError> {
        self.0.list(prefix, after, limit, depth).await
    }

    /// The API does not tell whether there was anything to delete, so this looks first.
    async fn delete(&self, key: &ObjectKey) -> Result<bool, StoreError> {
        let key = text_key(key)?;
        if self.0.look(&key).await?.is_none() {
            return Ok(false);
        }
        let request = self.0.client.delete_object().bucket(&self.0.name).key(&key);
        request.send().await.map(|_| true).map_err(|error| self.0.asked("delete an object", &key, 0).map(&error))
    }

    async fn put(&self, key: &ObjectKey, meta: ObjectMeta, body: Body) -> Result<StoredObject, StoreError> {
        let key = text_key(key)?;
        if let Some(done) = self.0.make_way_for(&key, &meta, &body).await? {
            return Ok(done);
        }
        let condition = self.0.condition(&meta);
        let conditional = condition.is_some();
        let mut result = self.0.put_once(&key, &meta, &body, condition).await;
        if let Err(error) = &result
            && self.0.drops_condition(conditional, error)
        {
            result = self.0.put_once(&key, &meta, &body, None).await;
        }
        match result {
            Ok(_) if conditional && self.0.conditions.wants_proof() => self.0.prove_conditions(&key, &meta, &body, result?).await,
            Ok(done) => Ok(done),
            Err(error) => self.0.settle(&key, &meta, body.crc(), error).await,
        }
    }

    async fn begin(&self, key: &ObjectKey, meta: ObjectMeta) -> Result<Arc<dyn Upload>, StoreError> {
        let key = text_key(key)?;
        self.0.make_way(&key, &meta, None).await?;
        let checksums = self.0.checksums(&key).await?;
        let id = self.0.create(&key, Some(&meta), checksums).await?;
        Ok(Arc::new(S3Upload { bucket: Arc::clone(&self.0), key, id, meta, checksums }))
    }

    async fn find_own(&self, key: &ObjectKey, meta: ObjectMeta, crc: Crc64) -> Result<Option<StoredObject>, StoreError> {
        self.0.find_own(&text_key(key)?, &meta, crc).await
    }

    async fn reopen(&self, key: &ObjectKey, meta: ObjectMeta, handle: &str) -> Result<Arc<dyn Upload>, StoreError> {
        let key = text_key(key)?;
        let checksums = self.0.checksums(&key).await?;
        Ok(Arc::new(S3Upload { bucket: Arc::clone(&self.0), key, id: handle.to_owned(), meta, checksums }))
    }
}

impl Bucket {
    /// Begins a multipart upload and returns its id.
    async fn create(&self, key: &str, meta: Option<&ObjectMeta>, checksums: bool) -> Result<String, StoreError> {
        let asked = self.asked("begin a multipart upload", key, 0);
        let answer = self
            .client
            .create_multipart_upload()
            .bucket(&self.name)
            .key(key)
            .set_metadata(meta.map(metadata))
            .set_checksum_algorithm(checksums.then_some(ChecksumAlgorithm::Crc64Nvme))
            .set_checksum_type(checksums.then_some(ChecksumType::FullObject))
            .send()
            .await
            .map_err(|error| asked.map(&error))?;
        answer.upload_id().filter(|id| !id.is_empty()).map(str::to_owned).ok_or_else(|| StoreError::Unavailable {
            place: self.place.clone(),
            detail: "a multipart upload was begun but its id is missing in the answer".to_owned(),
        })
    }

    /// Ends a multipart upload without an object.
    async fn abort(&self, key: &str, id: &str) -> Result<(), StoreError> {
        let request = self.client.abort_multipart_upload().bucket(&self.name).key(key).upload_id(id);
        match request.send().await.map_err(|error| self.asked("abort a multipart upload", key, 0).map(&error)) {
            Ok(_) | Err(StoreError::UploadGone { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// The store's checksum covers the whole object only when it says so or says nothing (single puts).
fn full_object_crc(kind: Option<&ChecksumType>, text: Option<&str>) -> Option<Crc64> {
    if kind == Some(&ChecksumType::Composite) { None } else { text.and_then(Crc64::from_base64) }
}

/// If the answer names a checksum, it must be ours.
fn check_answer(key: &str, answer: Option<&str>, ours: Crc64) -> Result<(), StoreError> {
    match answer.map(|text| (text, Crc64::from_base64(text))) {
        Some((text, theirs)) if theirs != Some(ours) => {
            let detail = format!("the store computed {text}, we sent {}", ours.to_base64());
            Err(StoreError::ChecksumMismatch { object: key.to_owned(), detail })
        }
        _ => Ok(()),
    }
}

fn nanoseconds(time: Option<&DateTime>) -> Option<i64> {
    time.and_then(|time| i64::try_from(time.as_nanos()).ok())
}

fn bare(etag: &str) -> String {
    etag.trim_matches('"').to_owned()
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_another_checksum_is_not_believed() {
        let ours = Crc64::of(b"abc");
        assert!(check_answer("k", None, ours).is_ok());
        assert!(check_answer("k", Some(&ours.to_base64()), ours).is_ok());
        assert!(matches!(check_answer("k", Some("AAAAAAAAAAA="), ours), Err(StoreError::ChecksumMismatch { .. })));
    }
}
