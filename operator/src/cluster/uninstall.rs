//! The end of an installation: no object stays that only this operator could let go.

use crds::{Bucket, BucketFork, BucketSnapshot};
use kube::Api;
use kube::api::ListParams;

use super::kinds::Ours;
use super::write::{WriteError, Writer};

/// Takes the finalizer off every object of the three kinds. Returns off how many. What is on the nodes stays there.
///
/// # Errors
/// The first that the API server refuses; what was released before stays released.
pub async fn release_all(writer: &Writer) -> Result<usize, WriteError> {
    Ok(release::<BucketFork>(writer).await?
        + release::<BucketSnapshot>(writer).await?
        + release::<Bucket>(writer).await?)
}

async fn release<K: Ours>(writer: &Writer) -> Result<usize, WriteError> {
    let api = Api::<K>::all(writer.client().clone());
    let mut released = 0;
    let objects = match api
        .list(&ListParams::default())
        .await
        .map_err(WriteError::from)
    {
        Ok(objects) => objects,
        // The definition of the kind was removed already.
        Err(WriteError::Gone) => return Ok(0),
        Err(error) => return Err(error),
    };
    for object in objects {
        let mut object = object.into_object();
        // A node may be writing at the same moment.
        for _ in 0..10 {
            match writer.release(&object).await {
                Err(WriteError::Conflict) => match writer.read(&object.key()).await? {
                    Some(now) => object = now,
                    None => break,
                },
                outcome => {
                    outcome?;
                    break;
                }
            }
        }
        released += 1;
    }
    Ok(released)
}
